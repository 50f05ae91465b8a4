//! Name to clusterset address, stable.
