//! What the cluster holds of the objects that we write.
