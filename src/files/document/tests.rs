use super::*;

fn show(text: &str, syntax: Syntax) {
    match parse(text.as_bytes(), syntax, &Documents::new()) {
        Ok(content) => println!("{:#?} ignored {}", content.objects, content.ignored),
        Err(m) => println!("{m:?}"),
    }
}

#[test]
fn scratch() {
    show(
        "# c\n---\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  clusterIP: None\n  ports:\n  - port: 80\n    name: no\n",
        Syntax::Yaml,
    );
    for bad in [
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  ports:\n  - port: 0\n",
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  ports:\n  - port: abc\n",
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  ports:\n  - name: x\n",
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: WEB\nspec:\n  ports:\n  - name: x\n    port: 1\n",
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\n bad: [\n",
        "a: b\n",
        "- a\n",
        "hello\n",
        "null\n",
        "apiVersion: v1\nkind: Service\nkind: Service\n",
        "apiVersion: v1\nkind: Service\nmetadata:\n\tname: x\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: Cluster}\n",
        "apiVersion: v2\nkind: Service\nmetadata: {name: web}\nspec: {type: Cluster}\n",
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web, labels: {kubernetes.io/service-name: x}}\nendpoints:\n- addresses: [10.0.0.300]\n",
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata:\n    name: WEB\n",
    ] {
        println!("--- {bad}");
        show(bad, Syntax::Yaml);
    }
    show("{\"apiVersion\":\"v1\",\"kind\":\"Service\",\n\"metadata\":{\"name\":3}}", Syntax::Json);
}
