//! One gateway for all inputs of a run.

use std::sync::LazyLock;

use tokio::runtime::Runtime;

use super::doors::Doors;

static HOUSE: LazyLock<(Runtime, Doors)> = LazyLock::new(|| {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let doors = runtime.block_on(Doors::open());
    (runtime, doors)
});

pub fn with(knock: impl AsyncFn(&'static Doors)) {
    let (runtime, doors) = &*HOUSE;
    runtime.block_on(knock(doors));
    assert!(!doors.gateway.failed().is_cancelled(), "a task has crashed");
}
