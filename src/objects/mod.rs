//! Which Kubernetes objects should exist: the decision, as data.
//!
//! From the route table and what the cluster holds to the ServiceImports, derived Services,
//! EndpointSlices and conditions that follow (KEP-1645). Pure: nothing here talks to an API
//! server; `kubernetes` applies what is decided.
