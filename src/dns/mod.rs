//! DNS sockets and wire encoding of answers.
