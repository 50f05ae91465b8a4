//! Label and annotation keys that never travel: they mean something to the cluster they are in.

/// The domains, each with all of its subdomains.
const DOMAINS: [&str; 6] =
    ["kubernetes.io", "k8s.io", "portolan.dev", "argoproj.io", "fluxcd.io", "helm.sh"];

/// Whether a key's domain (what stands before its `/`) is reserved. A key without one is not.
pub(super) fn is_reserved(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    let domain = domain.to_ascii_lowercase();
    DOMAINS.iter().any(|reserved| {
        domain.strip_suffix(reserved).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_decides_not_a_look_alike() {
        for key in ["kubernetes.io/x", "app.kubernetes.io/name", "a.b.k8s.io/x", "helm.sh/chart"] {
            assert!(is_reserved(key), "{key}");
        }
        for key in
            ["x", "kubernetes.io", "notk8s.io/x", "k8s.io.example.org/x", "example.org/helm.sh"]
        {
            assert!(!is_reserved(key), "{key}");
        }
    }
}
