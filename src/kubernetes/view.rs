//! What the cluster tells besides exports.
