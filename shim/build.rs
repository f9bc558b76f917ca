//! libcsel.so can be executed: its entry point is the keeper's (src/keeper.rs).
fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-e,csel_keeper_entry");
    println!("cargo::rerun-if-changed=build.rs");
}
