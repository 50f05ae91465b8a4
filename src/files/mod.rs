//! The source that reads a directory of Kubernetes manifests.
