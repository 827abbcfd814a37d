"""What `citysense bench decode` compares: three profiles, and the same three formats decoded by hand."""
