#![no_main]

#[path = "../doors.rs"]
mod doors;
#[path = "../house.rs"]
mod house;

libfuzzer_sys::fuzz_target!(|input: &[u8]| house::with(async |doors| doors.config(input).await));
