#![no_std]
//! stub
pub mod config;
pub mod stats;
pub mod trace;
