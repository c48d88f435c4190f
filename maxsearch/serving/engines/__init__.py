"""Engines over other systems than the store, behind the protocol of `shop.answer.Engine`."""
