//! Log set-up and small metric builders.
