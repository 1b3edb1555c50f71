//! `tcp-monitor read`, through the binary: what it prints, and what it says of files that are not
//! as they should be. Needs no privilege.

mod damage;
mod golden;
mod interplay;
mod parts;
mod run;
mod untimed;
