package main

import (
	"encoding/json"
	"fmt"
	"strings"
)

// peerCase is what somebody may write into a Peer. `fault` is part of the refusal; empty: accepted.
type peerCase struct {
	what, name, spec, fault string
}

const bundle = `"bundle": "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"`

var peerCases = []peerCase{
	{"the ordinary one", "oregon", `"addresses": ["gw.example.org:8443"], ` + bundle, ""},
	{"every field", "oregon", `"cluster": "oregon", "addresses": ["192.0.2.1", "[2001:db8::1]:8443"],
		"networks": ["10.8.0.0/16", "fd00:8::/48"], "import": {"namespaces": ["shop", "*"]},
		"trustPolicy": false, "dialOut": false, ` + bundle, ""},
	{"no inbound path", "oregon", `"dialOut": true, ` + bundle, ""},
	{"a label of 63", strings.Repeat("a", 63), `"dialOut": true, ` + bundle, ""},
	{"a label of 64", strings.Repeat("a", 64), `"dialOut": true, ` + bundle, "RFC 1123 label"},
	{"a subdomain", "oregon.example", `"dialOut": true, ` + bundle, "RFC 1123 label"},
	{"another cluster", "oregon", `"cluster": "tokyo", "dialOut": true, ` + bundle, "differs from metadata.name"},
	{"upper case", "oregon", `"cluster": "Oregon", "dialOut": true, ` + bundle, "should match"},
	{"no address", "oregon", bundle, "addresses is empty"},
	{"an empty list", "oregon", `"addresses": [], ` + bundle, "addresses is empty"},
	{"a port too high", "oregon", `"addresses": ["gw:65536"], ` + bundle, "should match"},
	{"a URL", "oregon", `"addresses": ["https://gw:8443"], ` + bundle, "should match"},
	{"bare IPv6 with a port", "oregon", `"addresses": ["2001:db8::1:8443"], ` + bundle, "should match"},
	{"an address twice", "oregon", `"addresses": ["gw", "gw"], ` + bundle, "Duplicate value"},
	{"no range", "oregon", `"dialOut": true, "networks": ["10.8.0.0"], ` + bundle, "is not a range"},
	{"a range too wide", "oregon", `"dialOut": true, "networks": ["10.8.0.0/33"], ` + bundle, "is not a range"},
	{"no bundle", "oregon", `"dialOut": true`, "spec.bundle: Required"},
	{"no PEM", "oregon", `"dialOut": true, "bundle": "MA=="`, "BEGIN CERTIFICATE"},
	{"a key in it", "oregon", `"dialOut": true, "bundle": "-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----"`,
		"holds a private key"},
	{"a bad namespace", "oregon", `"dialOut": true, "import": {"namespaces": ["shop*"]}, ` + bundle, "should match"},
	{"an unknown field", "oregon", `"dialOut": true, "adresses": ["gw"], ` + bundle, "unknown field spec.adresses"},
}

func tryPeers(definitions map[string]definition, found *findings) {
	peers, ok := definitions["peers.portolan.dev"]
	found.place = peers.place
	if !ok {
		found.place = "peers.portolan.dev"
		found.add("is missing")
		return
	}
	for _, one := range peerCases {
		text := fmt.Sprintf(`{"apiVersion": "portolan.dev/v1alpha1", "kind": "Peer",
			"metadata": {"name": %q}, "spec": {%s}}`, one.name, one.spec)
		object := map[string]any{}
		if err := json.Unmarshal([]byte(text), &object); err != nil {
			found.add("the case %q: %v", one.what, err)
			continue
		}
		faults, err := peers.admit(object)
		said := strings.Join(faults, "; ")
		switch {
		case err != nil:
			found.add("%s: %v", one.what, err)
		case one.fault == "" && said != "":
			found.add("%s: is refused: %s", one.what, said)
		case one.fault != "" && !strings.Contains(said, one.fault):
			found.add("%s: should be refused for %q, but is: %q", one.what, one.fault, said)
		}
		spec := object["spec"].(map[string]any)
		defaults := fmt.Sprint(spec["trustPolicy"] != nil, spec["dialOut"] != nil, spec["import"] != nil)
		if one.fault == "" && defaults != "true true true" {
			found.add("%s: has no defaults: %v", one.what, spec)
		}
	}
}
