//! Part of Ringfort.
