"""Device sheets: a compiled profile as a page for people, in English or Chinese. Pure: a profile in, Markdown out."""
