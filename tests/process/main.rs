//! Ringfort as a user has it: real processes, killed for real.

mod bad_input;
mod cluster;
mod elastic;
mod join;
mod kill;
mod main_job;
mod small_disk;
mod storm;
mod writers;
