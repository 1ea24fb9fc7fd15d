"""What a step costs: presets, linear fits, rooflines and tables of measurements."""
