"""What is made of label maps: values that a study defines, pictures, DICOM objects."""
