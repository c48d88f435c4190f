"""Engines that answer searches from elsewhere than this process; see `shop.answer.Engine`."""
