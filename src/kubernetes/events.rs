//! Events: what owners of objects should know.
