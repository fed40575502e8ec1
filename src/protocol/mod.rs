//! The protocol front ends: pure code that turns requests and changes into answers.
