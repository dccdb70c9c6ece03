//! Schedules, samplers, guidance and random generators on host arrays; knows no model and no device.
