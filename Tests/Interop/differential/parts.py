"""Parts of configurations that families of decoders share."""


def types(case, config, share=0.6, window=(2, 5, 9, 16)):
    """Kinds of layers, and the window that some see."""
    config["sliding_window"] = case.rng.choice(window)
    if case.chance(share):
        config["layer_types"] = [case.rng.choice(["full_attention", "sliding_attention"]) for _ in range(config["num_hidden_layers"])]


def own_head_size(case, config, head_dim, always=False, width=None):
    """Heads that do not share the width."""
    if always or case.chance(0.3):
        config |= {"head_dim": head_dim, "hidden_size": config["num_attention_heads"] * (width or case.rng.randint(2, 12))}


def some_rotary(case, config, tools, size, key="partial_rotary_factor", parts=(0.25, 0.5, 0.75, 1.0)):
    """A part of each head that is turned, of an even number of numbers."""
    fitting = [part for part in parts if int(size * part) % 2 == 0 and int(size * part) > 0]
    if not fitting:
        return 0.5
    part = case.rng.choice(fitting)
    if case.chance(0.5) or int(size * 0.5) % 2 or key == "rotary_pct":
        config[key] = part
        return part
    return 0.5
