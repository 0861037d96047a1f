/** One page of the page: made when its address is opened, stopped when it is left. */
export interface View {
  readonly element: HTMLElement;
  readonly title: string;
  start(): void;
  stop(): void;
  restyle?(): void;
}
