//! Our operations put into Burn, layers made of them, devices and precision.
