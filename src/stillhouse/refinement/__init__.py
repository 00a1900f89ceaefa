"""What `stillhouse refine` is made of: where the student is weak, what is done about it, and whether it helped."""
