"""fairseq's side of Mega: configs, encoder, decoder, the registered models and their presets."""
