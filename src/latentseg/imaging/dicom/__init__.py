"""DICOM: series as volumes, RTSTRUCT and SEG as masks, SEG and structured reports as output."""
