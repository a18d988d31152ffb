//! Ringfort as a user has it: real processes, killed for real.

mod bad_input;
mod busy;
mod cluster;
mod deletes;
mod elastic;
mod full_disk;
mod heal;
mod hints;
mod join;
mod kill;
mod leave;
mod main_job;
mod operator;
mod reap;
mod recover;
mod rot;
mod small_disk;
mod storm;
mod undelete;
mod writers;
