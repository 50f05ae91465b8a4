// Says what an API server would say of the chart's objects, without one: whether the definitions
// are valid and their rules compile, whether those of the Multi-Cluster Services API are equal to
// the original, what a Peer may and may not be, whether rendered objects have only fields that
// exist, whether the pods keep to the restricted Pod Security level, and whether the README names
// every value.
//
//	verify CHART MANIFEST...
//
// Exit codes: 0 all is well, 1 something is not, 2 it could not run.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
)

// findings collects what is wrong.
type findings struct {
	place string
	count int
}

func (f *findings) add(format string, arguments ...any) {
	f.count++
	fmt.Printf("%s: %s\n", f.place, fmt.Sprintf(format, arguments...))
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: verify CHART MANIFEST...")
		os.Exit(2)
	}
	found := &findings{}
	definitions, err := readDefinitions(filepath.Join(os.Args[1], "crds"), found)
	if err == nil {
		compareWithOriginal(definitions, found)
		tryPeers(definitions, found)
		err = errors.Join(documented(os.Args[1], found), readManifests(os.Args[2:], definitions, found))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "verify:", err)
		os.Exit(2)
	}
	if found.count > 0 {
		os.Exit(1)
	}
}

// documents splits a YAML file; empty documents are left out.
func documents(path string) ([][]byte, error) {
	text, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	var all [][]byte
	for {
		document, err := reader.Read()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if json, err := utilyaml.ToJSON(document); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		} else if !bytes.Equal(json, []byte("null")) {
			all = append(all, json)
		}
	}
}
