//! One contract for both disks.
