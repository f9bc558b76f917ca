#![no_std]
//! stub
pub mod config;
