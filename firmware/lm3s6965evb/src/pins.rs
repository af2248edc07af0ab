//! Pins and the light sensor.

use core::convert::Infallible;

use embedded_hal::digital::{ErrorType, InputPin, OutputPin};
use kinglet_companion::LightSensor;
use kinglet_link::Light;

use crate::registers::*;

/// One pin of a port.
pub struct Pin {
    /// Where it is read and written: the address masks the other pins out.
    address: u32,
}

impl Pin {
    /// An input with a pull-up.
    pub fn input(port: u32, bit: u32) -> Self {
        write(port + GPIODIR, read(port + GPIODIR) & !(1 << bit));
        write(port + GPIOPUR, read(port + GPIOPUR) | 1 << bit);
        write(port + GPIODEN, read(port + GPIODEN) | 1 << bit);
        Pin {
            address: port + (4 << bit),
        }
    }

    /// An output.
    pub fn output(port: u32, bit: u32) -> Self {
        write(port + GPIODIR, read(port + GPIODIR) | 1 << bit);
        write(port + GPIODEN, read(port + GPIODEN) | 1 << bit);
        Pin {
            address: port + (4 << bit),
        }
    }
}

impl ErrorType for Pin {
    type Error = Infallible;
}

impl InputPin for Pin {
    fn is_high(&mut self) -> Result<bool, Infallible> {
        Ok(read(self.address) != 0)
    }

    fn is_low(&mut self) -> Result<bool, Infallible> {
        Ok(read(self.address) == 0)
    }
}

impl OutputPin for Pin {
    fn set_low(&mut self) -> Result<(), Infallible> {
        write(self.address, 0);
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        write(self.address, 0xFF);
        Ok(())
    }
}

/// A photo resistor at ADC0, measured ten times a second by timer 0.
pub struct Photoresistor {
    last: Option<Light>,
}

impl Photoresistor {
    /// Starts measuring, with a clock of so many hertz.
    pub fn start(clock: u32) -> Self {
        write(TIMER0 + GPTMCTL, 0);
        write(TIMER0 + GPTMCFG, 0);
        // Periodic.
        write(TIMER0 + GPTMTAMR, 2);
        write(TIMER0 + GPTMTAILR, clock / 10);
        // Sequencer 3: one sample of input 0, begun by a timer.
        write(ADC + ADCACTSS, 0);
        write(ADC + ADCEMUX, 5 << 12);
        write(ADC + ADCSSMUX3, 0);
        // It is the sequence's last.
        write(ADC + ADCSSCTL3, 2);
        write(ADC + ADCACTSS, 1 << 3);
        // The timer runs and triggers.
        write(TIMER0 + GPTMCTL, 1 | 1 << 5);
        Photoresistor { last: None }
    }
}

impl LightSensor for Photoresistor {
    fn light(&mut self) -> Option<Light> {
        // Its queue takes one sample; the newest one is wanted, but never more than a few are taken.
        for _ in 0..4 {
            if read(ADC + ADCSSFSTAT3) & ADC_EMPTY != 0 {
                break;
            }
            // Ten bits.
            self.last = Some((read(ADC + ADCSSFIFO3) << 6) as Light);
        }
        self.last
    }
}
