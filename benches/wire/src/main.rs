//! scratch main
mod bed;
mod contender;
mod cpu;
mod generator;
mod histogram;
mod packets;
mod sample;
mod sink;
use std::time::Duration;
fn main() -> anyhow::Result<()> {
    waxwing_tests::netns::remove_own_on_signal(|| {})?;
    let cores = cpu::Cores::find()?;
    cpu::Cores::stay_on(cores.load)?;
    for contender in [contender::Contender::Bare, contender::Contender::Nftables, contender::Contender::Waxwing("round_robin")] {
        for (flows, rate) in [(Some(10_000), None), (None, None), (Some(10_000), Some(100_000.0))] {
            let s = packets::measure(cores, contender, contender::Poll::Adaptive, generator::Load { flows, rate }, Duration::from_secs(1));
            println!("{contender} {flows:?} {rate:?} {s:?}");
        }
    }
    Ok(())
}
