"""Why a product has its score: shares of title and picture, and maps of each word over the picture."""
