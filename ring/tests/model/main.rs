//! Model checks: every order of small cases, with the real rules of `ring`.
//!
//! Each model is also run with bugs planted in what surrounds the rules, and must find each of them: a check that finds
//! nothing proves nothing.

mod consensus;
mod quorum;
