//! The registers of the LM3S6965 that are used here, named as in its data sheet.

/// Run-mode clock gating, 1 and 2: which peripherals run.
pub const RCGC0: u32 = 0x400F_E100;
pub const RCGC1: u32 = 0x400F_E104;
pub const RCGC2: u32 = 0x400F_E108;
/// Why the chip was reset.
pub const RESC: u32 = 0x400F_E05C;
pub const RESC_WATCHDOG: u32 = 1 << 3;

pub const WATCHDOG: u32 = 0x4000_0000;
pub const WDTLOAD: u32 = 0x000;
pub const WDTCTL: u32 = 0x008;
pub const WDTICR: u32 = 0x00C;

pub const UART0: u32 = 0x4000_C000;
pub const UARTDR: u32 = 0x000;
pub const UARTFR: u32 = 0x018;
pub const UARTFR_RXFE: u32 = 1 << 4;
pub const UARTFR_TXFF: u32 = 1 << 5;
pub const UARTIBRD: u32 = 0x024;
pub const UARTFBRD: u32 = 0x028;
pub const UARTLCRH: u32 = 0x02C;
pub const UARTCTL: u32 = 0x030;
pub const UARTIM: u32 = 0x038;
pub const UARTICR: u32 = 0x044;
/// Its interrupt.
pub const UART0_INTERRUPT: u16 = 5;

pub const PORT_A: u32 = 0x4000_4000;
pub const PORT_E: u32 = 0x4002_4000;
pub const PORT_F: u32 = 0x4002_5000;
pub const GPIODIR: u32 = 0x400;
pub const GPIOAFSEL: u32 = 0x420;
pub const GPIOPUR: u32 = 0x510;
pub const GPIODEN: u32 = 0x51C;

pub const TIMER0: u32 = 0x4003_0000;
pub const GPTMCFG: u32 = 0x000;
pub const GPTMTAMR: u32 = 0x004;
pub const GPTMCTL: u32 = 0x00C;
pub const GPTMTAILR: u32 = 0x028;

pub const ADC: u32 = 0x4003_8000;
pub const ADCACTSS: u32 = 0x000;
pub const ADCEMUX: u32 = 0x014;
pub const ADCSSMUX3: u32 = 0x0A0;
pub const ADCSSCTL3: u32 = 0x0A4;
pub const ADCSSFIFO3: u32 = 0x0A8;
pub const ADCSSFSTAT3: u32 = 0x0AC;
/// Its queue is empty.
pub const ADC_EMPTY: u32 = 1 << 8;

/// Reads a register.
pub fn read(address: u32) -> u32 {
    // SAFETY: only addresses of this file's registers come here: they can be read at any time, as words.
    unsafe { core::ptr::read_volatile(address as *const u32) }
}

/// Writes a register.
pub fn write(address: u32, value: u32) {
    // SAFETY: as for `read`; none of these registers makes the chip touch memory.
    unsafe { core::ptr::write_volatile(address as *mut u32, value) }
}
