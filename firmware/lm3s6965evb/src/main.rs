//! The companion on an LM3S6965 (Cortex-M3), which QEMU emulates: a PIR at PE0 and a contact at PE1, the wake
//! line at PF0, the board's power at PF2, a photo resistor at ADC0, the board at UART0 with 115,200 baud.
#![no_std]
#![no_main]

mod pins;
mod registers;

use core::cell::RefCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::NVIC;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::{entry, exception};
use critical_section::Mutex;
use heapless::Deque;
use kinglet_companion::{Companion, Identity, NoUpdates, Parts, Then};
use kinglet_link::{LONGEST_FRAME, Millis, Reset};
use panic_halt as _;

use pins::{Photoresistor, Pin};
use registers::*;

/// The internal oscillator's, in hertz.
const CLOCK: u32 = 12_000_000;
/// This firmware.
const VERSION: u32 = 1;
/// Seconds without a turn of the main loop after which the chip is reset: half of it each for the warning and
/// the reset.
const PATIENCE: u32 = 2;
/// Bytes that may arrive while the main loop does something else: 40 ms of them.
const RECEIVED: usize = 512;
/// `boots` counts.
const COUNTS: u32 = 0x4B49_4E47;

static TICKS: AtomicU32 = AtomicU32::new(0);
static BYTES: Mutex<RefCell<Deque<u8, RECEIVED>>> = Mutex::new(RefCell::new(Deque::new()));

/// What a reset leaves as it is: whether it counts, and the starts since power came.
#[unsafe(link_section = ".uninit.boots")]
static mut BOOTS: MaybeUninit<[u32; 2]> = MaybeUninit::uninit();

#[entry]
fn main() -> ! {
    let boots = count_boot();
    let reset = match boots {
        0 => Reset::Power,
        _ if read(RESC) & RESC_WATCHDOG != 0 => Reset::Watchdog,
        _ => Reset::Restart,
    };
    write(RESC, 0);
    start_clocks();
    let mut watchdog = Watchdog::start();
    start_uart();

    let parts = Parts {
        inputs: [Pin::input(PORT_E, 0), Pin::input(PORT_E, 1)],
        wake: Pin::output(PORT_F, 0),
        power: Some(Pin::output(PORT_F, 2)),
        light: Photoresistor::start(CLOCK),
        updater: NoUpdates,
    };
    let identity = Identity {
        firmware: VERSION,
        reset,
        light: true,
        session: boots as u16,
    };
    let mut clock = Clock::default();
    let mut companion = Companion::new(parts, identity, clock.now());
    let mut out = [0; LONGEST_FRAME];
    loop {
        let now = clock.now();
        // As many as there were: a line that never rests must not stop the rest.
        for _ in 0..RECEIVED {
            let byte = critical_section::with(|cs| BYTES.borrow_ref_mut(cs).pop_front());
            let Some(byte) = byte else { break };
            companion.receive(byte, now);
        }
        if companion.poll(now) == Then::Restart {
            cortex_m::peripheral::SCB::sys_reset();
        }
        while let Some(frame) = companion.transmit(now, &mut out) {
            frame.iter().for_each(|&byte| send(byte));
        }
        watchdog.feed();
        // Until the next millisecond or byte.
        cortex_m::asm::wfi();
    }
}

/// Counts starts since power came.
fn count_boot() -> u32 {
    let boots = (&raw mut BOOTS).cast::<[u32; 2]>();
    // SAFETY: nothing else touches it, there is one thread, and any bits are a valid array of numbers. It is
    // volatile: what a compiler knows of its first value is not what memory holds after a reset.
    unsafe {
        let count = match boots.read_volatile() {
            [COUNTS, n] => n.wrapping_add(1),
            _ => 0,
        };
        boots.write_volatile([COUNTS, count]);
        count
    }
}

fn start_clocks() {
    // The watchdog and the ADC; UART0 and timer 0; ports A, E and F.
    write(RCGC0, 1 << 3 | 1 << 16);
    write(RCGC1, 1 | 1 << 16);
    write(RCGC2, 1 | 1 << 4 | 1 << 5);
    let Some(mut peripherals) = cortex_m::Peripherals::take() else {
        return;
    };
    let systick = &mut peripherals.SYST;
    systick.set_clock_source(SystClkSource::Core);
    systick.set_reload(CLOCK / 1000 - 1);
    systick.clear_current();
    systick.enable_counter();
    systick.enable_interrupt();
}

/// Resets the chip when the main loop stands still.
struct Watchdog;

impl Watchdog {
    fn start() -> Self {
        write(WATCHDOG + WDTLOAD, CLOCK * PATIENCE / 2);
        // It counts, and resets at the second time-out.
        write(WATCHDOG + WDTCTL, 3);
        Watchdog
    }

    fn feed(&mut self) {
        write(WATCHDOG + WDTICR, 1);
        write(WATCHDOG + WDTLOAD, CLOCK * PATIENCE / 2);
    }
}

fn start_uart() {
    // PA0 and PA1 are the UART's.
    write(PORT_A + GPIOAFSEL, 3);
    write(PORT_A + GPIODEN, 3);
    write(UART0 + UARTCTL, 0);
    // 115,200 baud of 12 MHz: 6 + 33/64.
    write(UART0 + UARTIBRD, 6);
    write(UART0 + UARTFBRD, 33);
    // 8 bits, queues.
    write(UART0 + UARTLCRH, 0x70);
    // Interrupts: a byte, and no more bytes for a while.
    write(UART0 + UARTIM, 1 << 4 | 1 << 6);
    // On, in both directions.
    write(UART0 + UARTCTL, 0x301);
    // SAFETY: its handler is there, and shares its queue by a critical section.
    unsafe { NVIC::unmask(Interrupt(UART0_INTERRUPT)) };
}

fn send(byte: u8) {
    while read(UART0 + UARTFR) & UARTFR_TXFF != 0 {}
    write(UART0 + UARTDR, byte.into());
}

/// Milliseconds that do not go round.
#[derive(Default)]
struct Clock {
    last: u32,
    rounds: u32,
}

impl Clock {
    fn now(&mut self) -> Millis {
        let ticks = TICKS.load(Ordering::Relaxed);
        if ticks < self.last {
            self.rounds += 1;
        }
        self.last = ticks;
        Millis::from(self.rounds) << 32 | Millis::from(ticks)
    }
}

#[exception]
fn SysTick() {
    // One handler writes it: a load and a store are enough.
    TICKS.store(TICKS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// Bytes have arrived.
extern "C" fn uart0() {
    critical_section::with(|cs| {
        let mut bytes = BYTES.borrow_ref_mut(cs);
        while read(UART0 + UARTFR) & UARTFR_RXFE == 0 {
            // Without room it is lost, as on a noisy line: its frame comes again.
            let _ = bytes.push_back(read(UART0 + UARTDR) as u8);
        }
    });
    write(UART0 + UARTICR, 0x7FF);
}

#[derive(Clone, Copy)]
struct Interrupt(u16);

// SAFETY: the only number that is made is UART0's, of this chip's vector table.
unsafe impl cortex_m::interrupt::InterruptNumber for Interrupt {
    fn number(self) -> u16 {
        self.0
    }
}

/// An entry of the vector table.
#[derive(Clone, Copy)]
#[repr(C)]
pub union Vector {
    handler: unsafe extern "C" fn(),
    reserved: usize,
}

unsafe extern "C" {
    fn DefaultHandler();
}

/// The interrupts behind the processor's own exceptions.
#[unsafe(link_section = ".vector_table.interrupts")]
#[unsafe(no_mangle)]
pub static __INTERRUPTS: [Vector; 44] = {
    let mut vectors = [Vector {
        handler: DefaultHandler,
    }; 44];
    vectors[UART0_INTERRUPT as usize] = Vector { handler: uart0 };
    vectors
};
