"""Studies of nnU-Net trainings on Ray: what is trained is data, and what is done is not done again."""
