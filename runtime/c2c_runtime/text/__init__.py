"""In: text and chats. Out: token ids and back; what text-to-text asks and tells."""
