/** Words that are taken as they are. */

/** A flag's or a word's text, as it was typed. */
export const parseText = (text: string): string => text;
