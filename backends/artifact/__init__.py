# SPDX-License-Identifier: Apache-2.0
"""Artefacts: a folder with a model or engines, and a manifest that says what they are.

`manifest` is the format, `folder` writes and opens one, `kinds` says who builds and loads which
kind, `check` compares one with its digests and with the model it was made from.
"""
