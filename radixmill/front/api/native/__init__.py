"""SGLang's own route: POST /generate."""
