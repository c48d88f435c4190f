"""Preparation as an Apache Beam pipeline, for catalogues and click logs that outgrow one machine.

rows, products, clicks, words and letters are its parts, pipeline joins them, and runner starts it. Only runner may be
imported without Apache Beam.
"""
