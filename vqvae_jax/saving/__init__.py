"""Models as JSON descriptions and safetensors weights."""
