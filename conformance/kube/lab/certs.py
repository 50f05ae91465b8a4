"""Certificates of one cluster: one authority, P-256, made by openssl."""

from tools import tool

CLIENT = "extendedKeyUsage=clientAuth"


def make(directory, spec, addresses, node_names):
    """Writes ca, sa (the key of service accounts), apiserver and one client certificate for each user."""
    directory.mkdir(parents=True)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    tool("openssl", "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "3650",
         "-subj", f"/CN={spec.name}", "-addext", "basicConstraints=critical,CA:true",
         "-addext", "keyUsage=critical,keyCertSign,cRLSign", cwd=directory)
    tool("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "sa.key", cwd=directory)
    tool("openssl", "ec", "-in", "sa.key", "-pubout", "-out", "sa.pub", cwd=directory)

    def issue(name, subject, extensions):
        extension_file = directory / f"{name}.ext"
        extension_file.write_text(extensions + "\n")
        tool("openssl", "req", "-new", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr",
             "-subj", subject, cwd=directory)
        tool("openssl", "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
             "-CAcreateserial", "-out", f"{name}.crt", "-days", "3650", "-extfile", f"{name}.ext",
             cwd=directory)

    names = ["DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc",
             "DNS:kubernetes.default.svc.cluster.local", "DNS:localhost", "IP:127.0.0.1"]
    names += [f"IP:{a}" for a in addresses.node(1) + addresses.service(1)]
    issue("apiserver", "/CN=kube-apiserver",
          f"extendedKeyUsage=serverAuth\nsubjectAltName={','.join(names)}")
    issue("admin", "/O=system:masters/CN=admin", CLIENT)
    for program in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
        issue(program, f"/CN=system:{program}", CLIENT)
    for node in node_names:
        issue(node, f"/O=system:nodes/CN=system:node:{node}", CLIENT)


def kubeconfig(path, directory, user, server):
    """Writes the file that `user` reaches the API server with."""
    path.write_text(f"""apiVersion: v1
kind: Config
clusters: [{{name: lab, cluster: {{server: "{server}", certificate-authority: {directory}/ca.crt}}}}]
users: [{{name: lab, user: {{client-certificate: {directory}/{user}.crt, client-key: {directory}/{user}.key}}}}]
contexts: [{{name: lab, context: {{cluster: lab, user: lab}}}}]
current-context: lab
""")
