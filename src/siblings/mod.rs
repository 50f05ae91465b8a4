//! The other replicas of the own cluster: who lives, and which ports each has open.
