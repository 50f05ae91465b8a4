//! Control sessions: publish and subscribe.
