"""What a run of stage 3 costs on a type of GPU: counted operations, a roofline, a timeline, and the best split."""
