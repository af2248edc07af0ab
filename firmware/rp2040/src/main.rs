//! The companion on a Raspberry Pi Pico: a PIR at GP2 and a contact to ground at GP3, the wake line at GP4, the
//! board's power at GP5, a photo resistor at GP26, the board at UART0 (GP0 and GP1) with 115,200 baud.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::exception;
use kinglet_companion::{Companion, Identity, LightSensor, NoUpdates, Parts, Then};
use kinglet_link::{LONGEST_FRAME, Light, Millis, Reset};
use panic_halt as _;
use rp2040_hal::adc::{Adc, AdcPin};
use rp2040_hal::clocks::init_clocks_and_plls;
use rp2040_hal::fugit::{ExtU32, RateExtU32};
use rp2040_hal::gpio::bank0::Gpio26;
use rp2040_hal::gpio::{FunctionSioInput, Pin, Pins, PullNone};
use rp2040_hal::rosc::RingOscillator;
use rp2040_hal::uart::{DataBits, StopBits, UartConfig, UartPeripheral};
use rp2040_hal::{Clock, Sio, Watchdog, entry, pac};

/// The second boot stage, for the Pico's flash.
#[unsafe(link_section = ".boot2")]
#[used]
pub static BOOT2: [u8; 256] = rp2040_boot2::BOOT_LOADER_W25Q080;

/// The crystal's frequency, in hertz.
const CRYSTAL: u32 = 12_000_000;
/// This firmware.
const VERSION: u32 = 1;
/// The UART's queue: what it can hold while the processor sleeps, 2.8 ms of bytes.
const QUEUE: usize = 32;

static TICKS: AtomicU32 = AtomicU32::new(0);

/// A photo resistor at the converter's first input.
struct Photoresistor {
    adc: Adc,
    pin: AdcPin<Pin<Gpio26, FunctionSioInput, PullNone>>,
}

impl LightSensor for Photoresistor {
    fn light(&mut self) -> Option<Light> {
        let twelve_bits: u16 = self.adc.read(&mut self.pin).ok()?;
        Some(twelve_bits << 4)
    }
}

#[entry]
fn main() -> ! {
    let (Some(mut chip), Some(mut core)) = (pac::Peripherals::take(), cortex_m::Peripherals::take())
    else {
        // Both are taken here alone.
        cortex_m::peripheral::SCB::sys_reset();
    };
    let reset = reset(&chip);
    let mut watchdog = Watchdog::new(chip.WATCHDOG);
    let clocks = init_clocks_and_plls(
        CRYSTAL,
        chip.XOSC,
        chip.CLOCKS,
        chip.PLL_SYS,
        chip.PLL_USB,
        &mut chip.RESETS,
        &mut watchdog,
    );
    let Ok(clocks) = clocks else {
        cortex_m::peripheral::SCB::sys_reset();
    };
    // The main loop turns every millisecond; a second without is an end.
    watchdog.start(1.secs());

    let chance = RingOscillator::new(chip.ROSC).initialize();
    let session = (0..16).fold(0, |bits, _| bits << 1 | u16::from(chance.get_random_bit()));

    let systick = &mut core.SYST;
    systick.set_clock_source(SystClkSource::Core);
    systick.set_reload(clocks.system_clock.freq().to_Hz() / 1000 - 1);
    systick.clear_current();
    systick.enable_counter();
    systick.enable_interrupt();

    let sio = Sio::new(chip.SIO);
    let pins = Pins::new(chip.IO_BANK0, chip.PADS_BANK0, sio.gpio_bank0, &mut chip.RESETS);
    let line = (pins.gpio0.into_function(), pins.gpio1.into_function());
    let config = UartConfig::new(115_200.Hz(), DataBits::Eight, None, StopBits::One);
    let uart = UartPeripheral::new(chip.UART0, line, &mut chip.RESETS);
    let Ok(mut uart) = uart.enable(config, clocks.peripheral_clock.freq()) else {
        cortex_m::peripheral::SCB::sys_reset();
    };
    uart.set_fifos(true);

    let Ok(pin) = AdcPin::new(pins.gpio26.reconfigure()) else {
        cortex_m::peripheral::SCB::sys_reset();
    };
    let adc = Adc::new(chip.ADC, &mut chip.RESETS);
    let parts = Parts {
        inputs: [
            pins.gpio2.into_pull_up_input().into_dyn_pin(),
            pins.gpio3.into_pull_up_input().into_dyn_pin(),
        ],
        wake: pins.gpio4.into_push_pull_output(),
        power: Some(pins.gpio5.into_push_pull_output()),
        light: Photoresistor { adc, pin },
        updater: NoUpdates,
    };
    let identity = Identity {
        firmware: VERSION,
        reset,
        light: true,
        session,
    };
    let (mut last, mut rounds) = (0, 0_u32);
    let mut now = || {
        let ticks = TICKS.load(Ordering::Relaxed);
        if ticks < last {
            rounds += 1;
        }
        last = ticks;
        Millis::from(rounds) << 32 | Millis::from(ticks)
    };
    let mut companion = Companion::new(parts, identity, now());
    let (mut bytes, mut out) = ([0; QUEUE], [0; LONGEST_FRAME]);
    // What is left of the frame that is being sent.
    let (mut sent, mut length) = (0, 0);
    loop {
        let at = now();
        match uart.read_raw(&mut bytes) {
            Ok(length) => bytes[..length].iter().for_each(|&byte| companion.receive(byte, at)),
            // Nothing is there; or what was there is damaged, and its frame comes again.
            Err(_) => {}
        }
        if companion.poll(at) == Then::Restart {
            cortex_m::peripheral::SCB::sys_reset();
        }
        if sent == length {
            sent = 0;
            length = companion.transmit(at, &mut out).map_or(0, <[u8]>::len);
        }
        // As much as finds room: what arrives meanwhile must not wait for the whole frame.
        if sent < length
            && let Ok(rest) = uart.write_raw(&out[sent..length])
        {
            sent = length - rest.len();
        }
        watchdog.feed();
        // Until the next millisecond.
        cortex_m::asm::wfi();
    }
}

/// Why the chip has started.
fn reset(chip: &pac::Peripherals) -> Reset {
    let power = &chip.VREG_AND_CHIP_RESET.chip_reset().read();
    if chip.WATCHDOG.reason().read().timer().bit_is_set() {
        Reset::Watchdog
    } else if power.had_por().bit_is_set() {
        Reset::Power
    } else {
        Reset::Restart
    }
}

#[exception]
fn SysTick() {
    // One handler writes it: a load and a store are enough.
    TICKS.store(TICKS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}
