"""The plugin for unpatched vLLM servers: a KV connector that moves running requests.

The only package that may import vLLM or torch. `connector.py` is what vLLM loads; `README.md` says
what runs in which process and thread.
"""
