"""What differential privacy costs. See the module `accountant`."""
